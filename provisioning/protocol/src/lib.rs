//! Wire and plan types shared by node, central and tools; no I/O.
