/** Calls of your backend, with the user's session, and of Paidup, with a page token. */
export interface Purchase {
  invoice: string;
  client_secret: string | null;
  ticket: string;
  status: { status: string } | null;
}
export interface Plan {
  id: string;
  name: string;
  credits: number;
  top_up: boolean;
  prices: { amount_minor: number; currency: string; interval: "month" | "year" | "once" }[];
}
export interface Account {
  balance: number;
  subscription: { plan: string; status: string; cancel_at: string | null } | null;
}

/** An answer that is no success. `body` is the backend's own, or Paidup's problem document. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    readonly body: any,
  ) {
    super(body.detail ?? `The server answers ${status}.`);
  }
}

async function call<T>(url: string, token: string, body?: object): Promise<T> {
  const answer = await fetch(url, {
    method: body ? "POST" : "GET",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: body && JSON.stringify(body),
  });
  const json = await answer.json();
  if (!answer.ok) throw new Refused(answer.status, json);
  return json as T;
}

let session = "";

export async function signIn(email: string): Promise<void> {
  session = (await call<{ session: string }>("/app/sign-in", "", { email })).session;
}

export const backend = <T>(path: string, body?: object) => call<T>(path, session, body);

let billing: { baseUrl: string; token: string } | undefined;
let until = 0;

/** Paidup's address and a page token, fetched again before it expires. */
async function settings() {
  if (!billing || Date.now() > until) {
    billing = await backend<{ baseUrl: string; token: string }>("/app/billing");
    until = Date.now() + 8 * 60_000;
  }
  return billing;
}

export async function paidup<T>(path: string, body?: object): Promise<T> {
  const { baseUrl, token } = await settings();
  return call<T>(baseUrl + path, token, body);
}

export const headers = async () => ({ Authorization: `Bearer ${(await settings()).token}` });
export const paidupUrl = async () => (await settings()).baseUrl;
