import neostandard from 'neostandard'

export default [
  ...neostandard({ ts: true, ignores: ['test/fixtures/api-types.d.ts', 'dist/', 'build/', 'node_modules/', '.tap/'] }),
  {
    rules: {
      // Type declarations in `declare module` blocks and overloads read better without these two.
      'no-redeclare': 'off',
      camelcase: 'off' // the wire format is snake_case, and renaming at each border would only add mistakes
    }
  }
]
