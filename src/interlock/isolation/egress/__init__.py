"""Egress (L5): the only way out of an action's network namespace, through a proxy that connects only to hosts named in the grant.

`listeners` runs inside the namespace, `server` and what it imports in the proxy's own process, `client` in the runtime.
"""
