"""Capsules: tools as sandboxed WebAssembly. A worker process behind walls runs each call in a store of its own.

| file | holds |
|---|---|
| `capsules.py` | the capsules of a runtime: their tools |
| `calls.py` | one call in a worker, and what became of a store that lasts |
| `loading.py` | how a capsule is loaded: its build, its code, its imports, its configuration |
| `component_file.py` | the WebAssembly file beneath a capsule's directory, read without following a link |
| `code_cache.py` | compiled code: private, keyed, replaced as a whole |
| `host.py`, `host_files.py`, `host_http.py`, `host_messages.py` | what the runtime answers to host functions |
| `bus.py`, `uplinks.py`, `delivery.py` | messages: queues, the channel of uplinks, and calls of those that handle them |
| `rights.py` | what the engine decides for them |
| `workers.py` | worker processes: started, lent to one call at a time, ended |
| `worker.py` | the process itself |
| `core_module.py`, `component_instance.py` | one call of a core module, and of a component |
| `printed.py` | what a capsule prints, until it is sent to the log |
| `capsule.wit` | the world of components |
| `interfaces.py`, `frames.py` | what both sides know: the host functions, and the form of messages |
"""
