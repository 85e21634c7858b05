import json, sys, os
import pytest
from pathlib import Path
import test_clients_codex as X, test_clients_copilot as C, test_clients_gemini as G, test_clients_opencode as O
from two_agents import TwoAgents
pytest_plugins=["clients_world"]
from test_clients_codex import codex
from test_clients_copilot import copilot
from test_clients_gemini import gemini
from test_clients_opencode import opencode

def show(model, world):
    print("OFFERED", sorted(model.offered))
    for k,v in model.results.items(): print(k, v[:500])
    print("SUB", sorted(model.sub.offered))
    for k,v in model.sub.results.items(): print(k, v[:500])
    for a in world.actions()[::-1]: print(a)

def test_gemini(gemini, project):
  for world in G.world._fixture_function(gemini, project):
        world.install("gemini","guard")
        model=TwoAgents([("invoke_agent",{"agent_name":"generalist","prompt":"sub work"}), G.shell("echo main")],[G.shell("echo sub")])
        G.run(world, model); show(model, world); assert 0
def test_copilot(copilot, project):
  for world in C.world._fixture_function(copilot, project):
        world.install("copilot","guard")
        model=TwoAgents([("task",{"agent_type":"general-purpose","name":"sub","description":"x","prompt":"sub work","mode":"sync"}), C.shell("echo main"),("bash",{"command":"sleep 1; echo x","mode":"async","description":"x"}),("write_bash",{"shellId":"0","input":"x"})],[C.shell("echo sub")])
        C.run(world, model); show(model, world); assert 0
def test_opencode(opencode, project):
  for world in O.world._fixture_function(opencode, project):
        world.install("opencode","guard")
        model=TwoAgents([("task",{"subagent_type":"general","description":"x","prompt":"sub work"}), O.shell("echo main")],[O.shell("echo sub")])
        O.run(world, model); show(model, world); assert 0
