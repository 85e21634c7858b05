"""The policy judge: Cedar policies, compiled to Python closures. Decides whether to allow, deny or hold a call, and why.

Pure: takes policy text, rules and a description of the world, and returns decisions.
"""

from typing import TYPE_CHECKING

from interlock.lazy import lazy_exports
from interlock.policy.load import load

if TYPE_CHECKING:
    from interlock.policy.cases import Case, CaseResult, read_cases, run_cases
    from interlock.policy.explain import Condition, Explanation, PolicyExplanation
    from interlock.policy.judge import PolicyJudge
    from interlock.policy.load import PolicyConfigurationError
    from interlock.policy.replay import Change, Past, Replay
    from interlock.policy.rules import DenyParam, Rules, to_cedar
    from interlock.policy.verdict import together
    from interlock.policy.world import World
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "Case": "cases",
            "CaseResult": "cases",
            "Change": "replay",
            "Condition": "explain",
            "DenyParam": "rules",
            "Explanation": "explain",
            "Past": "replay",
            "PolicyConfigurationError": "load",
            "PolicyExplanation": "explain",
            "PolicyJudge": "judge",
            "Replay": "replay",
            "Rules": "rules",
            "World": "world",
            "read_cases": "cases",
            "run_cases": "cases",
            "to_cedar": "rules",
            "together": "verdict",
        },
    )

__all__ = [
    "Case",
    "CaseResult",
    "Change",
    "Condition",
    "DenyParam",
    "Explanation",
    "Past",
    "PolicyConfigurationError",
    "PolicyExplanation",
    "PolicyJudge",
    "Replay",
    "Rules",
    "World",
    "load",
    "read_cases",
    "run_cases",
    "to_cedar",
    "together",
]
