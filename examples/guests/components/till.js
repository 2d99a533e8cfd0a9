// till.wit in JavaScript, for ComponentizeJS or componentize-qjs: it asks its host for prices.

import { price, onOffer, Receipt } from 'docs:till/prices@0.1.0';

export function order(customer, names) {
  return carryOn(new Receipt(customer), names).total();
}

export function bargains(names) {
  return onOffer(names).filter(({ cents }) => cents < 100);
}

export function add(receipt, name) {
  receipt.add(price(name));
  return receipt.total();
}

export function carryOn(receipt, names) {
  for (const name of names) receipt.add(price(name));
  return receipt;
}

export function finish(receipt) {
  return receipt.total();
}
