//! Tools of every shape that WIT has: what they take and give is checked against their JSON. An ordinary component, without the SDK.

#![cfg(target_arch = "wasm32")]
#![allow(missing_docs, unsafe_code, clippy::all, reason = "generated exports")]

mod bindings {
    wit_bindgen::generate!({
        path: ["../../../../wit/types", "../../../../wit/host"],
        inline: r#"
            package example:toolbox@1.0.0;

            interface shapes {
                record counts { words: u32, longest: option<string> }
                variant shape { point, circle(f64), square(f64) }
                enum colour { red, green, blue }
                flags marks { bold, small }
                /// Counts words.
                count: func(text: string) -> counts;
                area: func(of: shape) -> result<f64, string>;
                mix: func(colours: list<colour>, marks: marks, pair: tuple<s8, char>) -> tuple<list<colour>, marks, tuple<s8, char>>;
                reverse: func(bytes: list<u8>) -> list<u8>;
                %maybe: func(number: option<u64>) -> option<u64>;
                nothing: func();
                spin: func();
                grow: func(mebibytes: u32) -> u32;
                flood: func(count: u32) -> list<u64>;
            }

            world toolbox {
                import portcullis:host/config@0.1.0;
                import portcullis:host/secrets@0.1.0;
                import portcullis:host/http@0.1.0;
                export shapes;
                export greeting: func() -> string;
                export fetch: func(url: string) -> result<string, string>;
            }
        "#,
        world: "example:toolbox/toolbox",
        generate_all,
    });
}

use bindings::{
    exports::example::toolbox::shapes::{Colour, Counts, Guest as Shapes, Marks, Shape},
    portcullis::host::{
        config,
        http::{self, Body, Header, HeaderValue},
        secrets,
    },
};

struct Toolbox;

impl bindings::Guest for Toolbox {
    fn greeting() -> String {
        config::get()
    }

    fn fetch(url: String) -> Result<String, String> {
        let key = secrets::get("KEY").map_err(|error| format!("{error:?}"))?;
        let header = Header { name: "authorization".into(), value: HeaderValue::Secret(&key) };
        let request =
            http::Request { method: "GET".into(), url, headers: vec![header], body: Body::Empty, timeout_ms: None };
        http::send(&request).map(|answer| answer.status().to_string()).map_err(|error| format!("{error:?}"))
    }
}

impl Shapes for Toolbox {
    fn count(text: String) -> Counts {
        let longest = text.split_whitespace().max_by_key(|word| word.len()).map(str::to_owned);
        Counts { words: text.split_whitespace().count() as u32, longest }
    }

    fn area(of: Shape) -> Result<f64, String> {
        match of {
            Shape::Point => Ok(0.0),
            Shape::Circle(radius) if radius < 0.0 => Err("a circle inside out".into()),
            Shape::Circle(radius) => Ok(3.0 * radius * radius),
            Shape::Square(side) => Ok(side * side),
        }
    }

    fn mix(mut colours: Vec<Colour>, marks: Marks, pair: (i8, char)) -> (Vec<Colour>, Marks, (i8, char)) {
        colours.reverse();
        (colours, marks, pair)
    }

    fn reverse(mut bytes: Vec<u8>) -> Vec<u8> {
        bytes.reverse();
        bytes
    }

    fn maybe(number: Option<u64>) -> Option<u64> {
        number
    }

    fn nothing() {}

    fn spin() {
        let mut n = 0u64;
        loop {
            n = std::hint::black_box(n.wrapping_add(1));
        }
    }

    fn grow(mebibytes: u32) -> u32 {
        std::hint::black_box(vec![1u8; (mebibytes as usize) << 20]).len() as u32
    }

    fn flood(count: u32) -> Vec<u64> {
        vec![7; count as usize]
    }
}

bindings::export!(Toolbox with_types_in bindings);
