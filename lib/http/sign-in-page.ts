import { createHash } from 'node:crypto'

const style = `
  body { margin: 0; font: 16px/1.5 system-ui, sans-serif; background: #1f2937; color: #111827 }
  main { max-width: 22rem; margin: 10vh auto; padding: 2rem; background: #fff; border-radius: 0.5rem }
  h1 { margin: 0 0 1rem; font-size: 1.25rem }
  label { display: block; margin-top: 1rem }
  input { box-sizing: border-box; width: 100%; padding: 0.5rem; font: inherit }
  button { width: 100%; margin-top: 1.5rem; padding: 0.6rem; border: 0; border-radius: 0.25rem; font: inherit }
  button { background: #2563eb; color: #fff; cursor: pointer }
  [role=alert] { padding: 0.5rem; background: #fee2e2 }
  .or { margin: 1.5rem 0 0; color: #6b7280 }
  @media (max-width: 26rem) { main { margin: 0; min-height: 100vh; border-radius: 0 } }
`

/** Nothing but the style of the page, and nowhere to send the form but here. */
const policy = [
  "default-src 'none'",
  `style-src 'sha256-${createHash('sha256').update(style).digest('base64')}'`,
  "form-action 'self'",
  "base-uri 'none'",
  "frame-ancestors 'none'"
].join('; ')

/**
 * Headers of the page. By the Referrer-Policy of all other answers its form would have `Origin: null`, which over plain
 * HTTP, where browsers send no Sec-Fetch-Site, cannot be told from that of a foreign page.
 */
export const signInHeaders = {
  'content-type': 'text/html; charset=utf-8', 'content-security-policy': policy, 'referrer-policy': 'same-origin'
}

/** Where the form is sent. */
export const signInPath = '/sign-in'

interface Page {
  /** The URL at which it is shown: without --base-path the form has a relative address, below any path of a proxy. */
  url: string
  basePath: string | undefined
  /** Whether names and passwords log in; API keys always do. */
  takesPasswords: boolean
  /** Where a browser goes when it is signed in. */
  next: string
  /** Why it was not. */
  error?: string
}

/** Whether a browser navigates, so that a person would read the answer. */
export function isNavigation (
  { method, headers }: {
    method: string
    headers: { accept?: string, 'sec-fetch-mode'?: string | string[], 'sec-fetch-dest'?: string | string[] }
  }
): boolean {
  const { accept = '', 'sec-fetch-mode': mode = 'navigate', 'sec-fetch-dest': destination = 'document' } = headers
  return ['GET', 'HEAD'].includes(method) && mode === 'navigate' && destination === 'document' &&
    /(?:^|,)\s{0,9}text\/html\s{0,9}(?:[;,]|$)/i.test(accept.slice(0, 1024))
}

/** A path of this server from what a form or a URL says, else the documentation. */
export function pathToGoTo (next: string | undefined): string {
  const isPath = next !== undefined && next.length <= 2048 && /^\/(?!\/)[\w.~!$&'()*+,;=:@%/?-]*$/.test(next)
  return isPath ? next : '/api/docs/'
}

/** A page that works without scripts: the form sets a cookie and leads back. */
export function signInPage ({ url, basePath, takesPasswords, next, error }: Page): string {
  const up = basePath === undefined ? '../'.repeat(url.split('?', 1)[0]!.split('/').length - 2) : `${basePath}/`
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in · stable-diffusion-rest</title>
<style>${style}</style>
</head>
<body>
<main>
<h1>stable-diffusion-rest</h1>
${error === undefined ? '' : `<p role="alert">${escaped(error)}</p>`}
<form method="post" action="${up}${signInPath.slice(1)}">
<input type="hidden" name="next" value="${escaped(next)}">
${takesPasswords
    ? `<label>User name <input name="username" autocomplete="username" autofocus></label>
<label>Password <input name="password" type="password" autocomplete="current-password"></label>
<p class="or">or</p>`
    : ''}
<label>API key <input name="api_key" type="password" autocomplete="off" placeholder="sdr_…"></label>
<button>Sign in</button>
</form>
</main>
</body>
</html>
`
}

function escaped (text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;')
}
