"""How a proposal ends: its state is committed, or what it did is undone."""
