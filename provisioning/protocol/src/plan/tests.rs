use super::*;

const GOOD: &str = r#"
version: 1
site: lab-1
bundles: { os/base: 1.0.0 }
disks:
  system:
    match: { transport: virtio, min-size: 8GiB }
nodes:
  n1: { serial: LAB-0001 }
  n2:
    disks: { system: { match: { path: "*" }, wipe: true } }
"#;

#[test]
fn a_plan_fills_in_what_its_nodes_leave_open() {
    let plan = Plan::parse(GOOD).unwrap();
    let (name, node) = plan.node_by_serial("LAB-0001").unwrap();
    assert_eq!(name.as_str(), "n1");
    let own = plan.node_plan(name, node);
    assert_eq!(own.disks.unwrap().system.selector.min_size, Some(Size(8 << 30)));
    assert_eq!(plan.bundles_of(node)["os/base"], "1.0.0");
    assert_eq!(manifest_target("os/base", "1.0.0"), "os/base/1.0.0/manifest.json");
}

#[test]
fn a_plan_survives_the_wire() {
    let plan = Plan::parse(GOOD).unwrap();
    let wire = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&wire).unwrap(), plan);
}

#[test]
fn an_unknown_key_names_its_line() {
    let text = GOOD.replace("serial: LAB-0001", "seriall: LAB-0001");
    let error = Plan::parse(&text).unwrap_err().to_string();
    assert!(error.contains("seriall"), "{error}");
    assert!(error.contains("line 9"), "{error}");
}

#[test]
fn what_a_plan_may_not_say() {
    let cases = [
        ("version: 1", "version: 2", "version"),
        ("os/base: 1.0.0", "base: 1.0.0", "kind/name"),
        ("os/base: 1.0.0", "os/base: ../evil", "version"),
        ("os/base: 1.0.0", "os/base: 1, os/other: 1", "one os bundle"),
        ("transport: virtio", "transport: floppy", "transport"),
        ("min-size: 8GiB", "min-size: 8GiB, max-size: 1GiB", "above"),
        ("{ transport: virtio, min-size: 8GiB }", "{}", "no property"),
        ("match: { path: \"*\" }", "match: { path: \"*\" }, state-size: 1MiB", "256MiB"),
        ("  n2:", "  n1:", "n1"),
        ("site: lab-1", "site: Lab_1", "name"),
    ];
    for (from, to, expect) in cases {
        let error = Plan::parse(&GOOD.replace(from, to)).unwrap_err().to_string();
        assert!(error.contains(expect), "{to}: {error}");
    }
    let twice = GOOD.replace("  n2:", "  n3: { serial: LAB-0001 }\n  n2:");
    assert!(Plan::parse(&twice).unwrap_err().to_string().contains("already"));
}

#[test]
fn an_oversized_plan_is_not_parsed() {
    let text = "#".repeat(limits::PLAN_BYTES + 1);
    assert!(matches!(Plan::parse(&text), Err(PlanError::TooLong(_))));
}
