/** What generators of clients need of the schemas of a document: names, formats and patterns that they understand. */

export interface DocumentSchema {
  title?: string
  type?: string | readonly string[]
  description?: string
  enum?: readonly unknown[]
  properties?: Record<string, DocumentSchema>
  items?: DocumentSchema
  additionalProperties?: unknown
  format?: string
  maximum?: number
  pattern?: string
  $ref?: string
  [keyword: string]: unknown
}

interface Media {
  schema?: DocumentSchema
}

interface Operation {
  operationId?: string
  parameters?: Array<{ schema?: DocumentSchema }>
  requestBody?: { content: Record<string, Media> }
  responses: Record<string, { content?: Record<string, Media> }>
}

export interface SchemaDocument {
  components?: { schemas?: Record<string, DocumentSchema> }
  paths?: Record<string, Record<string, Operation>>
}

/** Integers above it do not fit into the `int` of Go, Java or C#. */
const largestInt32 = 2 ** 31 - 1

/** A class of characters that only JavaScript and .NET can read, and what it means in every language. */
const [unreadable, readable] = ['[^\\p{C}\\p{Zl}\\p{Zp}]', '[^\\u0000-\\u001F\\u007F-\\u009F\\u2028\\u2029]']

/**
 * Gives every object a component of its own, because generators number what has no name. A `title` is the name; an
 * object without one is named by its place (`Job.images[]` → `JobImage`), a list of values without one stays inline.
 */
export function nameSchemas (document: SchemaDocument): void {
  const named: Record<string, DocumentSchema> = { ...document.components?.schemas }

  function add (name: string, schema: DocumentSchema): DocumentSchema {
    const { title, ...component } = schema
    const known = named[name]
    if (known === undefined) named[name] = component
    else if (textOf(known) !== textOf(component)) throw new Error(`Two schemas of the document have the name ${name}`)
    const isSaid = component.description === undefined || component.description === (known ?? component).description
    return { $ref: `#/components/schemas/${name}`, ...(!isSaid && { description: component.description }) }
  }

  /** @param name for an object without a title. */
  function withNames (schema: DocumentSchema, name: string): DocumentSchema {
    const inside = parts(schema, name)
    if (isEnum(schema)) {
      const { description, default: preset, examples, ...values } = inside
      const reference = add(schema.title!, values)
      return {
        ...reference,
        ...(description !== undefined && { description }),
        ...(preset !== undefined && { default: preset }),
        ...(examples !== undefined && { examples })
      }
    }
    return schema.properties === undefined ? withoutTitle(inside) : add(schema.title ?? name, inside)
  }

  function parts (schema: DocumentSchema, parent: string): DocumentSchema {
    const { properties, items } = schema
    return {
      ...schema,
      ...(properties !== undefined && {
        properties: Object.fromEntries(Object.entries(properties).map(([name, property]) =>
          [name, withNames(property, parent + pascalCase(name))]))
      }),
      ...(items !== undefined && { items: withNames(items, singular(parent)) })
    }
  }

  for (const [name, schema] of Object.entries(named)) named[name] = withoutTitle(parts(schema, name))
  for (const { operationId = '', parameters = [], requestBody, responses } of operationsOf(document)) {
    const name = pascalCase(operationId.replace(/^generate/, ''))
    for (const parameter of parameters) {
      if (parameter.schema !== undefined) parameter.schema = withNames(parameter.schema, name)
    }
    for (const media of Object.values(requestBody?.content ?? {})) {
      if (media.schema !== undefined) media.schema = withNames(media.schema, name.replace(/(?<!Form)$/, 'Request'))
    }
    for (const media of Object.values(responses).flatMap(({ content = {} }) => Object.values(content))) {
      if (media.schema !== undefined) media.schema = withNames(media.schema, `${name}Response`)
    }
  }
  const sorted = Object.entries(named).sort(([a], [b]) => a < b ? -1 : 1)
  document.components = { ...document.components, schemas: Object.fromEntries(sorted) }
}

/**
 * Moves the defaults of a request into its descriptions: generators that read requests and answers alike make a field
 * with a default one that is always there.
 */
export function sayDefaults (schema: DocumentSchema | undefined): void {
  const { properties = {}, items } = schema ?? {}
  for (const property of Object.values(properties)) {
    if (property.default !== undefined) {
      const preset = property.default === '' ? 'empty' : String(property.default)
      property.description = `${property.description ?? ''}; ${preset} when absent`.replace(/^; /, '')
      delete property.default
    }
    sayDefaults(property)
  }
  if (items !== undefined) sayDefaults(items)
}

/** Says of integers that may need 64 bits that they do, and writes patterns in words that every language knows. */
export function spellOut (value: unknown): void {
  if (typeof value !== 'object' || value === null) return
  for (const [key, part] of Object.entries(value)) if (key !== 'example' && key !== 'examples') spellOut(part)
  const schema = value as DocumentSchema
  if ([schema.type].flat().includes('integer') && !(schema.maximum! <= largestInt32)) schema.format ??= 'int64'
  if (typeof schema.pattern === 'string') schema.pattern = schema.pattern.replaceAll(unreadable, readable)
}

export function operationsOf (document: SchemaDocument): Operation[] {
  return Object.values(document.paths ?? {}).flatMap(Object.values<Operation>)
}

/** `listModels` → `ListModels`, `tile_size` → `TileSize` */
export function pascalCase (text: string): string {
  return text.replaceAll(/(?:^|_)(.)/g, (_, letter: string) => letter.toUpperCase())
}

function singular (name: string): string {
  return name.replace(/ies$/, 'y').replace(/s$/, '')
}

function isEnum ({ title, enum: values }: DocumentSchema): boolean {
  return title !== undefined && values !== undefined && !values.includes(null)
}

function withoutTitle ({ title, ...schema }: DocumentSchema): DocumentSchema {
  return schema
}

/** What decides whether two schemas are the same: all but their descriptions. */
function textOf ({ description, ...schema }: DocumentSchema): string {
  return JSON.stringify(schema)
}
