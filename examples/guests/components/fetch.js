// fetch.wit in JavaScript, for ComponentizeJS: its fetch() is made of wasi:http.

const answer = async (response) => [response.status, await response.text()];

const attempt = async (promise) => {
  try {
    return await promise;
  } catch (error) {
    throw String(error);
  }
};

export const get = (url) => attempt(fetch(url).then(answer));

export const post = (url, body) => attempt(fetch(url, { method: 'POST', body }).then(answer));

export const race = (urls) =>
  attempt(Promise.race(urls.map((url) => fetch(url).then((response) => response.text()))));
