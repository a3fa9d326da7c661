package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// healthTimeout bounds the whole question.
const healthTimeout = 5 * time.Second

// healthcheckCmd asks a server on this machine for its health, for supervisors
// that can only run a program.
type healthcheckCmd struct {
	reach
}

// Run prints the status. A degraded or read-only server is alive: restarting
// it would not help, so only a server that does not answer 200 is an error.
func (c *healthcheckCmd) Run(p *process) error {
	host, port, err := net.SplitHostPort(c.Admin)
	if err != nil {
		return usage(fmt.Errorf("--admin %q: want HOST:PORT", c.Admin))
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	client, scheme, err := c.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(p.ctx, healthTimeout)
	defer cancel()
	url := scheme + "://" + net.JoinHostPort(host, port) + "/api/v1/health"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return usage(err)
	}
	answer, err := client.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	var health struct {
		Status string `json:"status"`
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, 1<<20)).Decode(&health); err != nil || health.Status == "" {
		return fmt.Errorf("%s: not the answer of an engramfs server", url)
	}
	_, err = fmt.Fprintln(p.stdout, health.Status)
	return err
}

// client returns an HTTP client. With TLS it trusts exactly the configured
// certificate, which is hardly ever made out to the name localhost.
func (c *healthcheckCmd) client() (*http.Client, string, error) {
	if c.TLSCert == "" {
		return &http.Client{Transport: &http.Transport{}}, "http", nil
	}
	text, err := os.ReadFile(c.TLSCert)
	if err != nil {
		return nil, "", err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, "", fmt.Errorf("%s: no PEM certificate", c.TLSCert)
	}
	t := &tls.Config{
		InsecureSkipVerify: true, // VerifyConnection compares the certificate itself
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !bytes.Equal(s.PeerCertificates[0].Raw, block.Bytes) {
				return errors.New("the server has another certificate than " + c.TLSCert)
			}
			return nil
		},
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: t}}, "https", nil
}
