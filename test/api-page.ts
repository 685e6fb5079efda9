import { readablePattern } from '../lib/http/public-paths.ts'

/** What docs/api.md says of each operation, made from the OpenAPI document. */

interface Schema {
  $ref?: string
  type?: string | string[]
  format?: string
  enum?: unknown[]
  const?: unknown
  description?: string
  default?: unknown
  minimum?: number
  maximum?: number
  multipleOf?: number
  minLength?: number
  maxLength?: number
  maxItems?: number
  required?: string[]
  properties?: Record<string, Schema>
  items?: Schema
  allOf?: Schema[]
}

interface Operation {
  operationId: string
  tags: string[]
  summary: string
  description: string
  parameters?: Array<{ name: string, in: string, required?: boolean, description?: string, schema: Schema }>
  requestBody?: { content: Record<string, { schema: Schema }> }
  responses: Record<string, { $ref?: string, description?: string, content?: Record<string, { schema: Schema }> }>
}

export interface Document {
  tags: Array<{ name: string, description: string }>
  paths: Record<string, Record<string, Operation>>
  components: { schemas: Record<string, Schema>, responses: Record<string, { description: string }> }
}

/** The lines of the page, by tag in the order of the document. */
export function apiPage ({ tags, paths, components }: Document): string[] {
  const common = Object.values(paths)
    .flatMap(Object.values<Operation>)
    .map(({ responses }) => codesOf(responses, components))
    .reduce((all, codes) => all.filter(code => codes.includes(code)))
  const operations = Object.entries(paths).flatMap(([path, byMethod]) =>
    Object.entries(byMethod).map(([method, operation]) => ({ title: `${method.toUpperCase()} ${readablePattern(path)}`, ...operation })))
  return [
    ...tags.flatMap(({ name, description }) => [
      `## ${capitalized(name)}`, '', description, '',
      ...operations.filter(operation => operation.tags[0] === name).flatMap(operation => section(
        operation, codesOf(operation.responses, components).filter(code => !common.includes(code))))
    ]),
    '## Objects', '',
    ...Object.entries(components.schemas).flatMap(([name, schema]) => [
      `### ${name}`, '', `${schema.description ?? ''}.`, '', ...table(fieldsOf(schema)), ''
    ])
  ]
}

function codesOf (responses: Operation['responses'], { responses: shared }: Document['components']): string[] {
  return Object.values(responses).flatMap(({ $ref }) => {
    const text = $ref === undefined ? '' : shared[$ref.split('/').at(-1)!]!.description
    return [...text.matchAll(/^`SDR_(\w+)`/gm)].map(([, code]) => code!)
  })
}

/** @param errors what it can answer besides what any can */
function section (
  { title, summary, description, parameters = [], requestBody, responses }: Operation & { title: string },
  errors: string[]
): string[] {
  const body = Object.entries(requestBody?.content ?? {})
  const rows = [
    ...parameters.map(({ name, in: place, required, description, schema }) => ({
      name: `${name} (${place})`,
      required,
      schema: { ...schema, description }
    })),
    ...(body[0] === undefined ? [] : fieldsOf(body[0][1].schema))
  ]
  const answers = Object.entries(responses)
    .filter(([status]) => Number(status) < 400)
    .map(([status, { description, content }]) => {
      const [type, media] = Object.entries(content ?? {})[0] ?? []
      return `**${status}** ${description}${type === undefined || type === 'application/json' ? '' : ` (\`${Object.keys(content!).join('`, `')}\`)`}${nameOf(media?.schema)}`
    })
  return [
    `### ${title}`, '', `${summary}. ${description}`, '',
    ...(body.length > 1 ? [`As \`${body.map(([type]) => type).join('` or `')}\`.`, ''] : []),
    ...(rows.length > 0 ? [...table(rows), ''] : []),
    ...answers.map(answer => `- ${answer}`),
    ...(errors.length > 0 ? [`- Errors: ${errors.map(code => `\`${code}\``).join(' ')}`] : []), ''
  ]
}

function fieldsOf (
  { properties = {}, required = [], allOf = [] }: Schema
): Array<{ name: string, required?: boolean, schema: Schema }> {
  return [
    ...allOf.flatMap(fieldsOf),
    ...Object.entries(properties).flatMap(([name, schema]) => [
      { name, schema, required: required.includes(name) },
      ...fieldsOf(schema).map(field => ({ ...field, name: `${name}.${field.name}` })),
      ...fieldsOf(schema.items ?? {}).map(field => ({ ...field, name: `${name}[].${field.name}` }))
    ])
  ]
}

function table (rows: Array<{ name: string, required?: boolean, schema: Schema }>): string[] {
  return [
    '| name | type | what |', '| --- | --- | --- |',
    ...rows.map(({ name, required, schema }) => `| \`${name}\`${required === true ? ' *' : ''} | ${cell(typeOf(schema))} | ${cell(whatOf(schema))} |`)
  ]
}

function whatOf ({ description = '', default: standard }: Schema): string {
  return [description, ...(standard === undefined || standard === '' ? [] : [`default \`${JSON.stringify(standard)}\``])].filter(part => part !== '').join('; ')
}

function typeOf (schema: Schema): string {
  const { $ref, type, format, enum: values, const: value, items, allOf } = schema
  if ($ref !== undefined) return `[${$ref.split('/').at(-1)}](#${$ref.split('/').at(-1)!.toLowerCase()})`
  if (Array.isArray(type) && type.includes('null')) {
    return `${typeOf({ ...schema, type: type.filter(name => name !== 'null'), enum: values?.filter(one => one !== null) })} or null`
  }
  if (allOf !== undefined) return allOf.map(typeOf).join(' and ')
  if (value !== undefined) return `\`${JSON.stringify(value)}\``
  if (values !== undefined) return values.length > 12 ? `one of ${values.length} names` : values.map(one => `\`${one}\``).join(' ')
  if (items !== undefined) return `list of ${typeOf(items)}${schema.maxItems === undefined ? '' : `, at most ${schema.maxItems}`}`
  return [[type ?? 'any'].flat().join(' or '), format === undefined ? '' : `(${format})`, range(schema)].filter(part => part !== '').join(' ')
}

function range ({ minimum, maximum, multipleOf, minLength, maxLength }: Schema): string {
  return [
    minimum === undefined && maximum === undefined ? '' : `${minimum ?? ''}…${maximum ?? ''}`,
    multipleOf === undefined ? '' : `in steps of ${multipleOf}`,
    maxLength === undefined ? '' : `of ${minLength ?? 0}…${maxLength} characters`
  ].filter(part => part !== '').join(' ')
}

function nameOf (schema: Schema | undefined): string {
  return schema?.$ref === undefined ? '' : `: ${typeOf(schema)}`
}

const cell = (text: string) => text.replaceAll('|', '\\|').replaceAll('\n', ' ')
const capitalized = (text: string) => text[0]!.toUpperCase() + text.slice(1)
