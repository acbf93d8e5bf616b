//! The truth table, against one written down independently.

use dmabench_dma::policy::{
    Decision, DeviceVote, DomainType, InstanceVote, Refusal, Strictness, SystemDefaults,
    Translation, admit, decide,
};

type Outcome = Result<Decision, Refusal>;
type Inputs = (SystemDefaults, InstanceVote, DeviceVote);
type Rule = fn(Inputs) -> Outcome;

/// Columns: untrusted, device's strictness, needs translation, needs identity;
/// system default; command line, SMMU's strictness, deferred flush; outcome.
/// `*` is anything, several letters are any of them. The rows exclude each
/// other: there is no "first that fits" here.
#[rustfmt::skip]
const TABLE: [(&str, Outcome); 23] = [
    // An untrusted device is translated, strict and bounced, whoever says what.
    ("y * * n   *  *  *  *", Ok(Decision::UNTRUSTED)),
    ("y * * y   *  *  *  *", Err(Refusal::Untrusted)),
    // A device that cannot be translated is not, or has no domain.
    ("n * y y   *  *  *  *", Err(Refusal::NeedsTranslation)),
    ("n s n y   *  *  *  *", Err(Refusal::StrictMember)),
    ("n l n y   *  *  *  *", Ok(Decision::IDENTITY)),
    ("n - n y   *  *  *  *", Ok(Decision::IDENTITY)),
    // A device that demands strictness gets it.
    ("n s * n   *  *  *  *", Ok(Decision::STRICT)),
    // Others follow the system's default.
    ("n l n n   i  *  *  *", Ok(Decision::IDENTITY)),
    ("n - n n   i  *  *  *", Ok(Decision::IDENTITY)),
    // Translated by default: any strict vote, then any lazy vote, then strict.
    ("n l- * n  t  s  *  *", Ok(Decision::STRICT)),
    ("n l- * n  t  l- s  *", Ok(Decision::STRICT)),
    ("n l- * n  t  l- l- n", Ok(Decision::STRICT)),
    ("n l  * n  t  l- l- y", Ok(Decision::LAZY)),
    ("n -  * n  t  l  l- y", Ok(Decision::LAZY)),
    ("n -  * n  t  -  l  y", Ok(Decision::LAZY)),
    ("n -  * n  t  -  -  y", Ok(Decision::STRICT)),
    // The same for a device that is translated because it must.
    ("n l- y n  i  s  *  *", Ok(Decision::STRICT)),
    ("n l- y n  i  l- s  *", Ok(Decision::STRICT)),
    ("n l- y n  i  l- l- n", Ok(Decision::STRICT)),
    ("n l  y n  i  l- l- y", Ok(Decision::LAZY)),
    ("n -  y n  i  l  l- y", Ok(Decision::LAZY)),
    ("n -  y n  i  -  l  y", Ok(Decision::LAZY)),
    ("n -  y n  i  -  -  y", Ok(Decision::STRICT)),
];

const STRICTNESS: [Option<Strictness>; 3] =
    [None, Some(Strictness::Strict), Some(Strictness::Lazy)];
const BOTH: [bool; 2] = [false, true];

fn devices() -> impl Iterator<Item = DeviceVote> + Clone {
    BOTH.into_iter().flat_map(|untrusted| {
        STRICTNESS.into_iter().flat_map(move |strictness| {
            BOTH.into_iter().flat_map(move |needs_translation| {
                BOTH.into_iter().map(move |needs_identity| DeviceVote {
                    untrusted,
                    strictness,
                    needs_translation,
                    needs_identity,
                })
            })
        })
    })
}

fn instances() -> impl Iterator<Item = InstanceVote> + Clone {
    STRICTNESS.into_iter().flat_map(|strictness| {
        BOTH.into_iter().map(move |deferred_flush| InstanceVote {
            strictness,
            deferred_flush,
        })
    })
}

fn systems() -> impl Iterator<Item = SystemDefaults> + Clone {
    [Translation::Translated, Translation::Identity]
        .into_iter()
        .flat_map(|translation| {
            STRICTNESS
                .into_iter()
                .map(move |command_line| SystemDefaults {
                    translation,
                    command_line,
                })
        })
}

fn inputs() -> impl Iterator<Item = Inputs> {
    systems().flat_map(|system| {
        instances()
            .flat_map(move |instance| devices().map(move |device| (system, instance, device)))
    })
}

fn letters((system, instance, device): Inputs) -> [char; 8] {
    let yes = |yes| if yes { 'y' } else { 'n' };
    let strictness = |vote| match vote {
        None => '-',
        Some(Strictness::Strict) => 's',
        Some(Strictness::Lazy) => 'l',
    };
    [
        yes(device.untrusted),
        strictness(device.strictness),
        yes(device.needs_translation),
        yes(device.needs_identity),
        match system.translation {
            Translation::Translated => 't',
            Translation::Identity => 'i',
        },
        strictness(system.command_line),
        strictness(instance.strictness),
        yes(instance.deferred_flush),
    ]
}

fn by_table(inputs: Inputs) -> Outcome {
    let letters = letters(inputs);
    let rows: Vec<_> = TABLE
        .iter()
        .filter(|(row, _)| {
            let cells: Vec<_> = row.split_whitespace().collect();
            assert_eq!(cells.len(), letters.len(), "{row}");
            cells
                .iter()
                .zip(letters)
                .all(|(cell, letter)| *cell == "*" || cell.contains(letter))
        })
        .collect();
    assert_eq!(rows.len(), 1, "{inputs:?}: {rows:?}");
    rows[0].1
}

/// How many combinations `rule` decides otherwise than the table.
fn disagreements(rule: impl Fn(Inputs) -> Outcome) -> usize {
    inputs()
        .filter(|inputs| rule(*inputs) != by_table(*inputs))
        .count()
}

fn ours((system, instance, device): Inputs) -> Outcome {
    decide(system, instance, device)
}

#[test]
fn every_combination_is_decided_as_the_table_says() {
    assert_eq!(inputs().count(), 6 * 6 * 24);
    for inputs in inputs() {
        assert_eq!(ours(inputs), by_table(inputs), "{inputs:?}");
    }
}

#[test]
fn the_table_notices_every_rule_that_is_left_out() {
    let wrong: [(&str, Rule); 6] = [
        ("trusts everybody", |(system, instance, mut device)| {
            device.untrusted = false;
            decide(system, instance, device)
        }),
        ("no command line", |(mut system, instance, device)| {
            system.command_line = None;
            decide(system, instance, device)
        }),
        ("the SMMU has no say", |(system, mut instance, device)| {
            instance.strictness = None;
            decide(system, instance, device)
        }),
        ("a queue on any SMMU", |(system, mut instance, device)| {
            instance.deferred_flush = true;
            decide(system, instance, device)
        }),
        ("lazy votes win", |inputs| {
            let (system, instance, device) = inputs;
            let lazy = Some(Strictness::Lazy);
            let votes = [system.command_line, instance.strictness, device.strictness];
            match ours(inputs) {
                Ok(Decision::STRICT) if votes.contains(&lazy) => Ok(Decision::LAZY),
                outcome => outcome,
            }
        }),
        ("lazy by default", |inputs| match ours(inputs) {
            Ok(Decision::STRICT) if letters(inputs)[5..7] == ['-', '-'] => Ok(Decision::LAZY),
            outcome => outcome,
        }),
    ];
    for (name, rule) in wrong {
        assert_ne!(disagreements(rule), 0, "{name}");
    }
    assert_eq!(disagreements(ours), 0);
}

#[test]
fn the_function_can_decide_at_compile_time() {
    const SDHCI: Outcome = decide(
        SystemDefaults {
            translation: Translation::Translated,
            command_line: None,
        },
        InstanceVote {
            strictness: None,
            deferred_flush: true,
        },
        DeviceVote::LAZY,
    );
    assert_eq!(SDHCI, Ok(Decision::LAZY));
}

#[test]
fn votes_join_in_any_order_and_grouping() {
    for a in devices() {
        assert_eq!(a.join(a), a);
        for b in devices() {
            assert_eq!(a.join(b), b.join(a));
            for c in devices() {
                assert_eq!(a.join(b).join(c), a.join(b.join(c)));
            }
        }
    }
    for a in instances() {
        assert_eq!(a.join(a), a);
        for b in instances() {
            assert_eq!(a.join(b), b.join(a));
            for c in instances() {
                assert_eq!(a.join(b).join(c), a.join(b.join(c)));
            }
        }
    }
}

#[test]
fn a_group_is_as_strict_as_its_strictest_member_alone() {
    let safety = |decision: Decision| match decision {
        Decision::UNTRUSTED => 3,
        Decision::STRICT => 2,
        Decision::LAZY => 1,
        _ => 0,
    };
    for system in systems() {
        for instance in instances() {
            for (a, b) in devices().flat_map(|a| devices().map(move |b| (a, b))) {
                let each = [a, b].map(|device| decide(system, instance, device));
                let together = decide(system, instance, a.join(b));
                let [Ok(first), Ok(second)] = each else {
                    assert!(together.is_err(), "{a:?} {b:?}");
                    continue;
                };
                if a.needs_identity || b.needs_identity {
                    continue;
                }
                let strictest = if safety(first) > safety(second) {
                    first
                } else {
                    second
                };
                let together = together.expect("no contradiction");
                let case = format!("{system:?} {instance:?} {a:?} {b:?}");
                assert!(safety(together) >= safety(strictest), "{case}");
                // Where one alone would not be translated, its having no opinion
                // on strictness counts only together with the other.
                if system.translation == Translation::Translated {
                    assert_eq!(together, strictest, "{case}");
                }
            }
        }
    }
}

#[test]
fn what_is_decided_is_admitted_and_what_is_admitted_harms_no_member() {
    for (system, instance, device) in inputs() {
        if let Ok(decision) = decide(system, instance, device) {
            let again = admit(instance, device, decision.domain_type);
            assert_eq!(again, Ok(decision), "{system:?} {instance:?} {device:?}");
        }
        for target in DomainType::ALL {
            let Ok(decision) = admit(instance, device, target) else {
                continue;
            };
            assert_eq!(decision.domain_type, target);
            // U2
            assert_eq!(decision.pinned, device.untrusted);
            assert_eq!(decision.bounce, device.untrusted);
            let strict = device.untrusted || device.strictness == Some(Strictness::Strict);
            match target {
                DomainType::Identity => {
                    assert!(!strict && !device.needs_translation);
                }
                DomainType::Dma => assert!(!device.needs_identity),
                DomainType::DmaFq => {
                    assert!(!strict && !device.needs_identity && instance.deferred_flush);
                }
            }
        }
        // Only contradictions leave no choice at all.
        let some = DomainType::ALL
            .into_iter()
            .any(|target| admit(instance, device, target).is_ok());
        let contradiction = device.needs_identity
            && (device.untrusted
                || device.needs_translation
                || device.strictness == Some(Strictness::Strict));
        assert_eq!(some, !contradiction, "{instance:?} {device:?}");
    }
}
