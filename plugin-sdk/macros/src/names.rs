//! Names as serde writes them.

/// `rename_all`.
#[derive(Clone, Copy, Default)]
pub(crate) enum Case {
    #[default]
    AsWritten,
    Lower,
    Upper,
    Pascal,
    Camel,
    Snake,
    ScreamingSnake,
    Kebab,
    ScreamingKebab,
}

impl Case {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "lowercase" => Self::Lower,
            "UPPERCASE" => Self::Upper,
            "PascalCase" => Self::Pascal,
            "camelCase" => Self::Camel,
            "snake_case" => Self::Snake,
            "SCREAMING_SNAKE_CASE" => Self::ScreamingSnake,
            "kebab-case" => Self::Kebab,
            "SCREAMING-KEBAB-CASE" => Self::ScreamingKebab,
            _ => return None,
        })
    }

    /// A field's name, written in snake case.
    pub(crate) fn field(self, name: &str) -> String {
        match self {
            Self::AsWritten | Self::Lower | Self::Snake => name.to_owned(),
            Self::Upper | Self::ScreamingSnake => name.to_uppercase(),
            Self::Kebab => name.replace('_', "-"),
            Self::ScreamingKebab => name.to_uppercase().replace('_', "-"),
            Self::Pascal => name.split('_').map(capital).collect(),
            Self::Camel => small(&name.split('_').map(capital).collect::<String>()),
        }
    }

    /// A variant's name, written in Pascal case.
    pub(crate) fn variant(self, name: &str) -> String {
        let mut snake = String::new();
        for (at, c) in name.char_indices() {
            if at > 0 && c.is_uppercase() {
                snake.push('_');
            }
            snake.extend(c.to_lowercase());
        }
        match self {
            Self::AsWritten | Self::Pascal => name.to_owned(),
            Self::Lower => name.to_lowercase(),
            Self::Upper => name.to_uppercase(),
            Self::Camel => small(name),
            other => other.field(&snake),
        }
    }
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn small(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::Case;

    #[test]
    fn names_are_those_of_serde() {
        for (case, field, variant) in [
            ("lowercase", "on_error", "onerror"),
            ("UPPERCASE", "ON_ERROR", "ONERROR"),
            ("PascalCase", "OnError", "OnError"),
            ("camelCase", "onError", "onError"),
            ("snake_case", "on_error", "on_error"),
            ("SCREAMING_SNAKE_CASE", "ON_ERROR", "ON_ERROR"),
            ("kebab-case", "on-error", "on-error"),
            ("SCREAMING-KEBAB-CASE", "ON-ERROR", "ON-ERROR"),
        ] {
            let case = Case::parse(case).unwrap_or_default();
            assert_eq!((case.field("on_error").as_str(), case.variant("OnError").as_str()), (field, variant));
        }
    }
}
