"""The engine decides what happens next: tool registry, scheduler, the gate's ten steps, runs, undo, recovery, assembly."""
