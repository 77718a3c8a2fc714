//! How the end of each command's help describes its `--json` output.
//!
//! A test compares these sentences with the output, and both with `docs/ipc.schema.json`.

pub const ARRAY: &str = "With --json: one JSON array.";
pub const OBJECT: &str = "With --json: one JSON object.";
pub const LINES: &str = "With --json: one JSON object per line.";
pub const ALWAYS_LINES: &str = "With and without --json: one JSON object per line.";
pub const SERVED: &str = "With --json and --listen: one JSON object. Figures are never JSON.";
pub const NEVER: &str = "The output is never JSON.";
