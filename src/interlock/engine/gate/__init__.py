"""The gate: ten numbered steps between a proposed action and its effect. Each step is one function.

| step | file | function |
|---|---|---|
| 1 | `verify.py` | `verify_proposal(proposal, registry)`, `find_unrunnable(run)` |
| 2-5 | `judgement.py` over `judges/steps.py` | `judge(action)`; `judge_call(judges, call)` |
| 6 | `approval.py`, `shown_files.py` | `ask(action, decision)` |
| 7 | `admission.py` | `admit(action)` |
| 8, 9 | `execute.py` | `write_intent(action, attempt)`, `execute(action, attempt)` |
| 10 | `outcome.py` | `settle(action, attempt, result)` |
| again | `retry.py` | `next_delay(action, failure, retries)` |
| all | `sequence.py` | `take_action(action)`, which calls the steps in order |
"""
