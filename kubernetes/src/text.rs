//! Sanitizes foreign text for messages: one line, without control characters for terminals
//! and logs, and of limited length.

/// The longest message of a condition or an Event, in bytes: the note of an Event may have
/// 1 KiB (`events.k8s.io/v1`), and conditions have the same messages.
pub const MESSAGE_MAX: usize = 1024;
/// The longest foreign value within a message, in bytes.
pub const VALUE_MAX: usize = 100;

/// The text on one line of at most `max` bytes: characters that do not print are escaped, and
/// the rest is cut.
#[must_use]
pub fn fit(text: &str, max: usize) -> String {
    let mut fits = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let before = fits.len();
        let escape = !prints(c);
        if escape {
            fits.extend(c.escape_default())
        } else {
            fits.push(c)
        }
        if fits.len() > max {
            fits.truncate(before.min(fits.floor_char_boundary(max.saturating_sub(CUT.len()))));
            fits.push_str(CUT);
            break;
        }
    }
    fits
}

/// A foreign value within a message.
#[must_use]
pub fn value(text: &str) -> String {
    fit(text, VALUE_MAX)
}

/// A message.
#[must_use]
pub fn message(text: &str) -> String {
    fit(text, MESSAGE_MAX)
}

const CUT: &str = "…";

/// Whether a character prints as itself. Besides control characters, those do not that break
/// a line or change the direction of others (Unicode, UAX 9 and 14).
fn prints(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}');
    let breaks = matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}');
    !(c.is_control() || turns || breaks)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_would_begin_a_line_or_colour_a_terminal_is_escaped() {
        assert_eq!(
            value("a\nlevel=INFO msg=\"all is well\"\r\x1b[31m\u{202e}"),
            r#"a\nlevel=INFO msg="all is well"\r\u{1b}[31m\u{202e}"#
        );
        assert_eq!(value("größer → 20417/TCP"), "größer → 20417/TCP");
    }

    #[test]
    fn what_is_too_long_is_cut_and_shows_it() {
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcdefg", 6), "abc…");
        assert_eq!(fit(&"x".repeat(1 << 20), 1024).len(), 1024);
    }

    proptest! {
        #[test]
        fn it_is_on_one_line_and_never_longer(text in "\\PC*|(.|\n|\r|\u{1b}|\u{2028}){0,200}", max in 3usize..200) {
            let fits = fit(&text, max);
            prop_assert!(fits.len() <= max, "{fits}");
            prop_assert!(!fits.chars().any(|c| c.is_control()));
            // A valid text stays as it is.
            prop_assert_eq!(&fit(&fits, max), &fits);
        }
    }
}
