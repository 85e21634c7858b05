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

The other files help a step: `call_digest.py` (5, 6 and 8), `entailed.py` (writes that a call entails, 2 to 5), `previews.py`,
`layer_previews.py`, `run_preview.py` and `effects.py` (what a hold shows, 6), `output.py` (9), and `tool_questions.py` (a tool
asks while it runs, 9).
"""
