"""Egress (L5): the only way out of an action's network namespace, through a proxy that connects only to hosts in the grant.

`listeners` runs inside the namespace, `server` and its imports in the proxy's own process, and `client` in the runtime.
"""
