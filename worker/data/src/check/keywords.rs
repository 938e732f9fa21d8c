//! Words of JSON Schema and OpenAPI, by what stands behind them.

/// Keywords that hold a value against something other than a schema.
const LIMITS: [&str; 18] = [
    "type",
    "required",
    "enum",
    "minProperties",
    "maxProperties",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minContains",
    "maxContains",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];
/// Keywords whose value is one schema.
pub(super) const ONE: [&str; 12] = [
    "items",
    "additionalItems",
    "additionalProperties",
    "propertyNames",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contains",
    "contentSchema",
    "not",
    "if",
    "then",
    "else",
];
/// Keywords whose value is a list of schemas.
pub(super) const SEVERAL: [&str; 5] = ["allOf", "anyOf", "oneOf", "prefixItems", "items"];
/// Keywords whose value is an object of schemas.
pub(super) const NAMED: [&str; 6] = [
    "properties",
    "patternProperties",
    "$defs",
    "definitions",
    "dependentSchemas",
    "dependencies",
];
/// Keywords whose schemas are held against the same value as their own schema is.
pub(super) const IN_PLACE: [&str; 7] = ["allOf", "anyOf", "oneOf", "not", "if", "then", "else"];

/// Keywords whose value may be any JSON.
pub(super) const FREE: [&str; 5] = ["default", "const", "example", "examples", "annotations"];
/// Keywords whose value is an object that is no schema.
pub(super) const OBJECTS: [&str; 4] = ["discriminator", "xml", "externalDocs", "dependentRequired"];
/// Keywords that describe and hold no value against anything.
pub(super) const SAYING_NOTHING: [&str; 26] = [
    "description",
    "title",
    "default",
    "examples",
    "example",
    "deprecated",
    "readOnly",
    "writeOnly",
    "nullable",
    "discriminator",
    "xml",
    "externalDocs",
    "strict",
    "id",
    "optional",
    "enumDescriptions",
    "propertyOrdering",
    "order",
    "name",
    "annotations",
    "comment",
    "markdownDescription",
    "format",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
];
/// Types of JSON Schema.
pub(super) const TYPES: [&str; 7] = [
    "object", "array", "string", "number", "integer", "boolean", "null",
];

/// Every keyword of JSON Schema and OpenAPI that a tool may use, some twice.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    let parts: [&[&str]; 7] = [
        &LIMITS,
        &ONE,
        &SEVERAL,
        &NAMED,
        &FREE,
        &OBJECTS,
        &SAYING_NOTHING,
    ];
    parts.into_iter().flatten().copied()
}

pub(super) fn is_keyword(word: &str) -> bool {
    all().any(|keyword| keyword == word)
}
