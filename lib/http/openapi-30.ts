type Json = unknown

/** What 3.0 calls what 3.1 took from JSON Schema. */
const replaced: Readonly<Record<string, (value: any) => Record<string, Json>>> = {
  type: (type: string | string[]) => typeof type === 'string'
    ? { type }
    : { type: type.find(one => one !== 'null'), nullable: true },
  const: value => ({ enum: [value] }),
  examples: (values: Json[] | Record<string, Json>) =>
    Array.isArray(values) ? { example: values[0] } : { examples: values }
}

/**
 * The same document as OpenAPI 3.0.3, for generators and gateways that read nothing newer: `type: [T, "null"]` becomes
 * `nullable`, `const` a list of one value, and a reference stands alone.
 */
export function toOpenApi30<Document extends object> (document: Document): Document {
  const { openapi, ...rest } = convert(document) as Record<string, Json>
  return { openapi: '3.0.3', ...rest } as Document
}

function convert (value: Json): Json {
  if (Array.isArray(value)) return value.map(convert)
  if (typeof value !== 'object' || value === null) return value
  const entries = value as Record<string, Json>
  if (typeof entries.$ref === 'string') return { $ref: entries.$ref }
  return Object.assign({}, ...Object.entries(entries).map(([key, part]) => {
    // Values of users are no schemas, whatever their names are.
    if (key === 'example' || key === 'default' || key === 'enum') return { [key]: part }
    if (key === 'properties') return { properties: mapValues(part as Record<string, Json>) }
    if (key === 'license') return { license: spdxLicense(part as { name: string, identifier: string }) }
    const replace = replaced[key]
    return replace === undefined ? { [key]: convert(part) } : replace(part)
  })) as Record<string, Json>
}

/** 3.0 knows no identifiers of SPDX. */
function spdxLicense ({ name, identifier }: { name: string, identifier: string }): Json {
  return { name, url: `https://spdx.org/licenses/${identifier}.html` }
}

/** The names of properties are no keywords. */
function mapValues (properties: Record<string, Json>): Record<string, Json> {
  return Object.fromEntries(Object.entries(properties).map(([name, schema]) => [name, convert(schema)]))
}
