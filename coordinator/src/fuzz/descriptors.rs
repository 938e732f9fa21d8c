//! Messages of the protocol out of its descriptors, as they stand on the wire.

use std::collections::HashMap;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

use super::choices::Choices;

/// Messages in messages at the most.
const DEEPEST: usize = 5;

/// Every method and every message.
pub struct Protocol {
    methods: Vec<Method>,
    /// By their full names, with a dot before them.
    messages: HashMap<String, DescriptorProto>,
}

/// A method: its path, and the message that it takes.
pub struct Method {
    pub path: String,
    pub input: String,
    takes_stream: bool,
}

impl Method {
    /// How many messages a call sends.
    pub fn messages(&self, choices: &mut Choices<'_>) -> usize {
        if self.takes_stream {
            choices.below(5)
        } else {
            1
        }
    }
}

impl Protocol {
    pub fn read() -> Self {
        let set = FileDescriptorSet::decode(qlora_proto::FILE_DESCRIPTOR_SET);
        let (mut methods, mut messages) = (Vec::new(), HashMap::new());
        for file in set.expect("the protocol's descriptors").file {
            let package = file.package().to_owned();
            for message in &file.message_type {
                note(&format!(".{package}"), message, &mut messages);
            }
            for service in &file.service {
                methods.extend(service.method.iter().map(|method| Method {
                    path: format!("/{package}.{}/{}", service.name(), method.name()),
                    input: method.input_type().to_owned(),
                    takes_stream: method.client_streaming(),
                }));
            }
        }
        let paths: Vec<&str> = methods.iter().map(|method| method.path.as_str()).collect();
        assert_eq!(paths, qlora_proto::METHODS, "every method is called");
        Self { methods, messages }
    }

    pub fn method(&self, choices: &mut Choices<'_>) -> &Method {
        &self.methods[choices.below(self.methods.len())]
    }

    /// A message of the type `name`.
    pub fn message(&self, name: &str, choices: &mut Choices<'_>) -> Vec<u8> {
        self.nested(name, choices, 0)
    }

    fn nested(&self, name: &str, choices: &mut Choices<'_>, depth: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        if depth == DEEPEST {
            return bytes;
        }
        let message = &self.messages[name];
        for field in &message.field {
            let times = match field.label() {
                Label::Repeated => choices.below(4),
                Label::Optional | Label::Required => usize::from(choices.below(4) > 0),
            };
            for _ in 0..times {
                self.field(field, choices, depth, &mut bytes);
            }
        }
        bytes
    }

    fn field(
        &self,
        field: &FieldDescriptorProto,
        choices: &mut Choices<'_>,
        depth: usize,
        bytes: &mut Vec<u8>,
    ) {
        let number = field.number() as u64;
        let mut counted = |content: Vec<u8>| {
            varint((number << 3) | 2, bytes);
            varint(content.len() as u64, bytes);
            bytes.extend(content);
        };
        match field.r#type() {
            Type::String if choices.one_in(4) => counted(choices.changed_text().into_bytes()),
            Type::String => counted(choices.text().into_bytes()),
            Type::Bytes => counted(choices.text().into_bytes()),
            Type::Message => counted(self.nested(field.type_name(), choices, depth + 1)),
            Type::Double => {
                varint((number << 3) | 1, bytes);
                bytes.extend(choices.fraction().to_le_bytes());
            }
            Type::Enum => {
                varint(number << 3, bytes);
                let is_any = choices.one_in(8);
                let value = if is_any {
                    choices.number()
                } else {
                    choices.below(10) as u64
                };
                varint(value, bytes);
            }
            Type::Bool | Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 | Type::Sint32 => {
                varint(number << 3, bytes);
                varint(choices.number(), bytes);
            }
            other => panic!("no field of the protocol was of {other:?}; write how one is made"),
        }
    }
}

fn note(parent: &str, message: &DescriptorProto, all: &mut HashMap<String, DescriptorProto>) {
    let name = format!("{parent}.{}", message.name());
    for nested in &message.nested_type {
        note(&name, nested, all);
    }
    all.insert(name, message.clone());
}

fn varint(mut value: u64, bytes: &mut Vec<u8>) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
