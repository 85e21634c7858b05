"""The policy judge: Cedar policies, compiled to Python closures. Answers "allow, deny or hold, and why?"

Pure: policy text, rules and the world they speak about come in, answers go out.
"""

from interlock.policy.judge import PolicyJudge
from interlock.policy.load import load
from interlock.policy.rules import DenyParam, Rules, to_cedar
from interlock.policy.world import World

__all__ = ["DenyParam", "PolicyJudge", "Rules", "World", "load", "to_cedar"]
