import unittest

from ledger import total


class TotalTest(unittest.TestCase):
    def test_the_fee_is_added(self) -> None:
        self.assertEqual(total([10, 20], fee=3), 33)

    def test_no_items(self) -> None:
        self.assertEqual(total([], fee=3), 3)


if __name__ == "__main__":
    unittest.main()
