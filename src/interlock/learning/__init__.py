"""Learns from earlier runs: facts that agents and people noted (memory), and proposals that worked (skills).

Everything in here is data. It is shown with its source and gives no authority to act: a note changes no decision of the
gate, and a skill runs only as a proposal. Only `engine/learning` imports this room (ADR 67).
"""
