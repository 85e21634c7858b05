"""REST: questions and answers over HTTP, for approvers who hold a token.

- `server`: listens, serves, continues runs, stops cleanly
- `app`: the routes, and what each of them does
- `wrapping`: what holds for every request, whatever its route
- `bodies` and `decoding`: the shape of requests and answers, and how strictly they are read
- `openapi`: the document that says all this to programs
- `command`: `interlock serve`
"""
