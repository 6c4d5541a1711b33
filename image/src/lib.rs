//! Builds Cairn's boot images, layers and the toolbox they are built with.
