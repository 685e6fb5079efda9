import type { ErrorShape } from '../../http/error-answers.ts'

/** Errors as AUTOMATIC1111 has them; some clients read `message`, others `detail` or `errors`. */
export const a1111Errors: ErrorShape = {
  body: ({ code, message }) => ({ error: code, detail: message, body: '', errors: message, message }),
  headers: ({ status }): Record<string, string> =>
    status === 401 ? { 'www-authenticate': 'Basic realm="stable-diffusion-rest", charset="UTF-8"' } : {}
}
