// A credential resolver: asks an HTTP service for a token of the caller's, and places it without ever reading it.
import { get as readConfig } from 'portcullis:host/config@0.1.0';
import { send } from 'portcullis:host/http@0.1.0';
import { Secret, get as grantedSecret } from 'portcullis:host/secrets@0.1.0';

const text = (val) => ({ tag: 'text', val });
const secret = (val) => ({ tag: 'secret', val });

export const resolver = {
  resolve(caller, target, into) {
    const url = JSON.parse(readConfig())?.url;
    if (typeof url !== 'string') throw { tag: 'invalid-config', val: 'url: is missing' };
    // An instance that still holds handles after a call is not used for another, and the collector may take its time.
    const held = [];
    const hold = (handle) => (handle && held.push(handle), handle);
    try {
      const key = hold(grantedSecret('broker-key'));
      const authorization = hold(Secret.concat([text('Bearer '), secret(key)]));
      const question = JSON.stringify({ subject: caller.subject(), server: target.server() });
      let answer;
      try {
        answer = hold(
          send({
            method: 'POST',
            url,
            headers: [
              { name: 'authorization', value: secret(authorization) },
              { name: 'content-type', value: text('application/json') },
            ],
            body: { tag: 'bytes', val: new TextEncoder().encode(question) },
            timeoutMs: 2000,
          }),
        );
      } catch {
        throw { tag: 'unavailable', val: 'the broker gives no answer' };
      }
      const status = answer.status();
      if (status === 404) {
        into.missing(`an account of ${caller.subject()} at the broker`);
        return;
      }
      const token = status === 200 ? hold(answer.takeSecret('/token')) : undefined;
      if (token === undefined) throw { tag: 'upstream', val: { status, message: 'the broker gave no token' } };
      into.header('authorization', [text('Bearer '), secret(token)]);
      const seconds = answer.number('/expires_in');
      if (seconds > 0) into.expires(BigInt(Date.now() + Math.floor(seconds) * 1000));
    } finally {
      for (const handle of held) handle[Symbol.dispose]();
    }
  },
};
