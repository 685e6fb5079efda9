import { SerializerSelector } from '@fastify/fast-json-stringify-compiler'
import fp from 'fastify-plugin'
import { serializersLater } from '../lib/http/compile-later.ts'

export interface SchemaOptions {
  /** Compile all schemas when the application is ready, not each at its first use: for tests. */
  compileAtOnce?: boolean
}

/** Answers are written by the schema of their route, which leaves out what the schema does not list. */
export default fp<SchemaOptions>(async (app, { compileAtOnce }) => {
  let compiler: ReturnType<ReturnType<typeof SerializerSelector>> | undefined
  app.setSerializerCompiler(serializersLater(route => {
    compiler ??= SerializerSelector()(app.getSchemas())
    return compiler(route as never)
  }, compileAtOnce))
}, { name: 'serialization' })
