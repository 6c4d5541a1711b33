//! Bundles: manifests, chunk index, chunk store, TUF client and repository.
