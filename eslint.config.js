import { configs as regexp } from 'eslint-plugin-regexp'
import neostandard from 'neostandard'

const longestLine = { code: 120, ignoreUrls: true, ignoreRegExpLiterals: true }

export default [
  ...neostandard({ ts: true, ignores: ['dist/', 'build/', 'node_modules/', '.tap/'] }),
  {
    plugins: regexp.recommended.plugins,
    rules: {
      // A regular expression that a text of its length squared keeps busy stops the whole server.
      'regexp/no-super-linear-backtracking': ['error', { report: 'potential' }],
      'regexp/no-super-linear-move': ['error', { report: 'potential' }],
      'regexp/no-misleading-capturing-group': 'error',
      'regexp/optimal-quantifier-concatenation': 'error',
      'regexp/no-dupe-disjunctions': 'error',
      'regexp/no-useless-quantifier': 'error',
      'regexp/no-empty-alternative': 'error'
    }
  },
  {
    rules: {
      // Type declarations in `declare module` blocks and overloads read better without these two.
      'no-redeclare': 'off',
      '@stylistic/max-len': ['error', longestLine],
      camelcase: 'off' // the wire format is snake_case, and renaming at each border would only add mistakes
    }
  },
  {
    // What tests send and expect stays whole.
    files: ['test/**'],
    rules: {
      '@stylistic/max-len': ['error', { ...longestLine, ignoreStrings: true, ignoreTemplateLiterals: true }]
    }
  }
]
