//! Carries the benches of the workspace; see README.md beside it.
