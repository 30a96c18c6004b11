//! Texts of strangers on their way to people's eyes.

/// Whether a character shows nothing of its own and changes how what stands around it is shown or read: controls, which
/// move a terminal's cursor; directions, which make a line read otherwise than it is; characters without width; tags.
///
/// The joiners U+200C and U+200D are not among them: scripts and emoji need them, and they move nothing.
pub fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text without what deceives, and no longer than `most` characters.
pub fn shown(text: &str, most: usize) -> String {
    text.chars().filter(|c| !deceives(*c)).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_deceives_goes_and_every_script_stays() {
        let evil = "a\u{202e}gpj.exe\u{1b}[2J\u{200b}\u{feff}\u{2066}\n\u{e0041}";
        assert_eq!(shown(evil, 80), "agpj.exe[2J");
        let honest = "Grüße, 漢字, עברית, العربية, हिन्दी, 👩‍💻, می‌خواهم";
        assert_eq!(shown(honest, 80), honest);
        assert_eq!(shown("abc", 2), "ab");
    }
}
