"""The command line: `interlock`.

`main` starts; `app` is the tree of commands, which are imported when they are used; `output` prints; one file per family of
commands, which parse, call the engine, and pass its answer to a renderer.
"""
