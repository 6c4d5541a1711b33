//! containerd's configuration, version 3 (containerd 2).

use crate::settings::Settings;

/// `/etc/containerd/config.toml`.
pub fn config(settings: &Settings) -> String {
    let pause = &settings.inventory.pause;
    let mut text = format!(
        "version = 3

[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '{pause}'

[plugins.'io.containerd.cri.v1.runtime']
"
    );
    if settings.container {
        // The score of a container's processes cannot go below that of its own PID 1.
        text.push_str("  restrict_oom_score_adj = true\n");
    }
    text.push_str(
        "  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/usr/libexec/cni']
    conf_dir = '/etc/cni/net.d'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = true
",
    );
    text
}
