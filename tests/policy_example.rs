//! `examples/policy.rs` checks its own story; here it is run.

#[path = "../examples/policy.rs"]
mod example;

#[test]
fn the_story_of_the_policy_example_holds() {
    example::main().unwrap();
}
