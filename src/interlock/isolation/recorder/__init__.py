"""Layer R1: records what the processes of an action do, by seccomp user notification, without privileges."""
