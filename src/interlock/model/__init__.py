"""The shared data types. No I/O, no clock, no imports from other packages of Interlock."""
