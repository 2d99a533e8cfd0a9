// till.wit in JavaScript, for componentize-qjs: it asks its host for prices.

import { price, Receipt } from 'docs:till/prices@0.1.0';

export function order(customer, names) {
  const receipt = new Receipt(customer);
  for (const name of names) receipt.add(price(name));
  return receipt.total();
}
