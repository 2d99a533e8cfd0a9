"""What a worker imports to call it beside a guest: so there is nothing else here."""


def same(number: int) -> int:
    """The number that it is given."""
    return number
