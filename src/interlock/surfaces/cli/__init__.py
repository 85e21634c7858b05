"""The command line: `interlock`.

`main` is the entry point, `app` the tree of commands, and `output` prints. Each family of commands has one file, whose
commands parse the arguments, call the engine, and pass the answer to a renderer. Commands are imported when they are
used.
"""
