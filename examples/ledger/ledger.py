"""What an order costs. There is a mistake in it."""


def total(items: list[int], fee: int) -> int:
    """The sum of the items, with the fee."""
    total = sum(items)
    return total - fee
