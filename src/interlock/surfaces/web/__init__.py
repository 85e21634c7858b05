"""REST: held calls and approvals over HTTP, for approvers with a token.

- `server`: listens, serves, resumes runs, stops cleanly
- `app`: the routes, and what each of them does
- `middleware`: what applies to every request, whatever the route
- `bodies` and `decoding`: the shapes of requests and responses, and their strict decoding
- `openapi`: the machine-readable description
- `command`: `interlock serve`
"""
