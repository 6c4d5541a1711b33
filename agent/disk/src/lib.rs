//! Disks of a node: selectors, GPT, file systems, verity layers, boot loaders.
