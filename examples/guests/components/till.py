"""``till.wit`` in Python, for componentize-py: it asks its host for prices.

componentize-py -d till.wit -w till componentize till -o till.wasm
"""

import wit_world
from wit_world.imports import prices
from wit_world.imports.prices import Article, Receipt


class WitWorld(wit_world.WitWorld):
    def order(self, customer: str, names: list[str]) -> int:
        with Receipt(customer) as receipt:
            for name in names:
                receipt.add(prices.price(name))
            return receipt.total()

    def bargains(self, names: list[str]) -> list[Article]:
        return [each for each in prices.on_offer(names) if each.cents < 100]

    def add(self, receipt: Receipt, name: str) -> int:
        receipt.add(prices.price(name))
        return receipt.total()

    def carry_on(self, receipt: Receipt, names: list[str]) -> Receipt:
        for name in names:
            receipt.add(prices.price(name))
        return receipt

    def finish(self, receipt: Receipt) -> int:
        with receipt:
            return receipt.total()
