"""Recognises what is dangerous in a value: secret shapes, invisible text, private addresses. Pure: no I/O, no clock."""
