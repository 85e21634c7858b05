"""Computes the price of an order, with a mistake."""


def total(items: list[int], fee: int) -> int:
    """The sum of the items, with the fee."""
    total = sum(items)
    return total - fee
