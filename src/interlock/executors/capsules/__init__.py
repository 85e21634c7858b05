"""Capsules: tools as sandboxed WebAssembly. A worker process behind walls runs each call in a separate store.

| file | holds |
|---|---|
| `capsules.py` | the capsules of a runtime and their tools |
| `calls.py` | one call in a worker, and the state of lasting stores |
| `loading.py` | loading a capsule: its build, code, imports and configuration |
| `component_file.py` | the WebAssembly file beneath a capsule's directory, read without following links |
| `code_cache.py` | compiled code: private, keyed, replaced atomically |
| `host.py`, `host_files.py`, `host_http.py`, `host_messages.py` | the runtime's side of host functions |
| `bus.py`, `uplinks.py`, `delivery.py` | messages: queues, the channel of uplinks, and calls of message handlers |
| `rights.py` | the decisions that the engine makes for host functions |
| `workers.py` | worker processes: started, lent to one call at a time, ended |
| `worker.py` | the worker process itself |
| `core_module.py`, `component_instance.py` | one call of a core module, and of a component |
| `printed.py` | buffers what a capsule prints until it is sent to the log |
| `capsule.wit` | the world of components |
| `interfaces.py`, `frames.py` | shared by both sides: the host functions and the message format |
"""
