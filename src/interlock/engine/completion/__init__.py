"""The end of a proposal: its state is committed, or its actions are undone."""
