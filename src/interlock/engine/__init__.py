"""Says what comes next: tool registry, scheduler, the gate's ten steps, the run loop, undo, recovery, composition."""
